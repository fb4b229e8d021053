"""From tracklets to persons with lasting numbers: evidence → groups → register → tracks, pages, videos."""
