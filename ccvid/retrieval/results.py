"""The results folder of a scored retrieval.

    metrics.json           metrics with intervals; written last
    metrics.txt            the same as tables
    queries.parquet        one row per query and protocol
    thresholds.json        error rates, the recommended threshold, open-set rates, reliability
    calibration.json       from score to probability, for ``score.py --calibration``
    embeddings.parquet     one row per tracklet, if the embeddings were made here
    rankings_PROTOCOL.*    a picture of a few rankings
    report/index.html      all of it as pages, with filmstrips of every query

Each file is written atomically.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from ccvid.config import ScoreOptions
from ccvid.retrieval.embedding.store import EmbedderDescription
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingTable, write_embeddings
from ccvid.retrieval.gallery.post_processing import NOTE as POST_PROCESSING_NOTE
from ccvid.retrieval.gallery.post_processing import ProcessedScores, compare_post_processing, post_processing_rows
from ccvid.retrieval.ranking.bootstrap import ResultIntervals, result_intervals
from ccvid.retrieval.ranking.distances import CosineDistances
from ccvid.retrieval.ranking.scoring import PICTURED_PROTOCOLS, ScoredRetrieval, leading_result
from ccvid.retrieval.report.film_strip import Thumbnails
from ccvid.retrieval.report.ranked_picture import draw_rankings, save_figure, write_figure
from ccvid.retrieval.report.report import ExtraFigure, ExtraTable, ReportInput, Threshold, write_report
from ccvid.retrieval.report.stored_pictures import stored_thumbnails
from ccvid.retrieval.report.tables import metrics_table, post_processing_lines, write_query_table
from ccvid.retrieval.report.threshold_pictures import draw_errors, draw_reliability
from ccvid.retrieval.report.threshold_tables import threshold_lines, threshold_tables
from ccvid.retrieval.thresholds.calibration import write_calibration
from ccvid.retrieval.thresholds.find import Thresholds, find_thresholds
from ccvid.run_files import CALIBRATION_FILE, EMBEDDINGS_FILE, REPORT_FOLDER, THRESHOLDS_FILE
from data_tools.errors import InputError
from data_tools.files import atomic_file
from data_tools.shards import ShardFolder


def write_scores(
    folder: Path,
    store: ShardFolder,
    scores: ScoredRetrieval,
    rows: Sequence[int],
    embedding_RD: Tensor,
    clip_count_R: Tensor,
    options: ScoreOptions,
    *,
    embedder: EmbedderDescription,
    title: str,
    facts: Mapping[str, object],
) -> dict[str, object]:
    """Write embeddings, pictures of rankings and the files of ``write_results``; returns what ``metrics.json`` holds.

    Args:
        rows: queries, then gallery, as in ``embedding_RD`` and ``clip_count_R``.
        title: of tables, pictures and the report.
        facts: further entries of ``metrics.json``.
    """
    labels = (EmbeddingRow.of(store, row, clip_count=int(count)) for row, count in zip(rows, clip_count_R, strict=True))
    table = EmbeddingTable(tuple(labels), embedding_RD.numpy(), embedder.fingerprint)
    write_embeddings(table, folder / EMBEDDINGS_FILE)
    queries = len(scores.evaluation.query)
    places = [(store, row) for row in rows]
    query_thumbnails, gallery_thumbnails = map(stored_thumbnails, (places[:queries], places[queries:]))
    for name in PICTURED_PROTOCOLS if options.report else ():
        if name in scores.evaluation.results:
            figure = draw_rankings(
                scores.evaluation,
                name,
                query_thumbnails=query_thumbnails,
                gallery_thumbnails=gallery_thumbnails,
                title=title,
            )
            for kind in ("svg", "png"):
                save_figure(figure, folder / f"rankings_{name}.{kind}")
    return write_results(
        folder,
        scores,
        options,
        model=embedder.fingerprint,
        title=title,
        facts={"model": embedder.model, "embedder": embedder.fingerprint, **facts},
        thumbnails=(query_thumbnails, gallery_thumbnails),
    )


def write_results(
    folder: Path,
    scores: ScoredRetrieval,
    options: ScoreOptions,
    *,
    model: str,
    title: str,
    facts: Mapping[str, object],
    thumbnails: tuple[Thumbnails, Thumbnails] | None = None,
) -> dict[str, object]:
    """Write metrics, intervals, thresholds, the report and, last, ``metrics.json``; returns the content of the last.

    Args:
        model: fingerprint of the model that a calibration is valid for.
        thumbnails: of queries and gallery; without them the report's filmstrips show only captions.
    """
    evaluation, draws = scores.evaluation, options.threshold.draws
    intervals = {
        name: result_intervals(result, evaluation.query.person, draws=draws)
        for name, result in evaluation.results.items()
    }
    protocol = leading_result(evaluation).protocol
    thresholds: Thresholds | None = None
    without = ""
    try:
        thresholds = find_thresholds(
            scores.distances, evaluation.query, evaluation.gallery, protocol, options.threshold, model=model
        )
    except InputError as error:
        without = str(error)
    processed = _post_processing(scores, options)  # before anything is written, because it may raise
    write_query_table(evaluation, folder / "queries.parquet")
    text = metrics_table(evaluation, scores.single_shot, intervals=intervals, title=title)
    text = "\n".join([text, "", *threshold_lines(thresholds, without)])
    if processed:
        text = "\n".join([text, "", *post_processing_lines(processed)])
        facts = {**facts, "post_processing": [found.to_json() for found in processed]}
    metrics = {**scores.to_json(), "intervals": {name: found.to_json() for name, found in intervals.items()}, **facts}
    for earlier in (THRESHOLDS_FILE, CALIBRATION_FILE):
        (folder / earlier).unlink(missing_ok=True)
    files = {"metrics.txt": text + "\n"}
    if thresholds is not None:
        files[THRESHOLDS_FILE] = json.dumps({"model": model, **thresholds.to_json()}, indent=1) + "\n"
        if thresholds.calibration is not None:
            write_calibration(thresholds.calibration, folder / CALIBRATION_FILE)
    if options.report:
        report = _report(scores, intervals, thresholds, model, title, facts, thumbnails)
        if processed:
            table = ExtraTable("Post-processing (%)", *post_processing_rows(processed), POST_PROCESSING_NOTE)
            report = replace(report, tables=[*report.tables, table])
        write_report(report, folder / REPORT_FOLDER)
    files["metrics.json"] = json.dumps(metrics, indent=1) + "\n"
    for file, content in files.items():
        with atomic_file(folder / file) as handle:
            handle.write(content.encode())
    return metrics


def _post_processing(scores: ScoredRetrieval, options: ScoreOptions) -> list[ProcessedScores]:
    if not options.post_processing:
        return []
    if not isinstance(scores.distances, CosineDistances):
        raise InputError("score.post_processing needs embeddings, not distances")
    evaluation = scores.evaluation
    protocols = [result.protocol for result in evaluation.results.values()]
    return compare_post_processing(scores.distances, evaluation.query, evaluation.gallery, protocols)


def _report(
    scores: ScoredRetrieval,
    intervals: Mapping[str, ResultIntervals],
    thresholds: Thresholds | None,
    model: str,
    title: str,
    facts: Mapping[str, object],
    thumbnails: tuple[Thumbnails, Thumbnails] | None,
) -> ReportInput:
    query_thumbnails, gallery_thumbnails = thumbnails or (lambda _: (), lambda _: ())
    shown = {name: value for name, value in facts.items() if isinstance(value, str | int | float)}
    report = ReportInput(
        title,
        scores.evaluation,
        scores.distances,
        query_thumbnails,
        gallery_thumbnails,
        facts=shown,
        intervals=intervals,
    )
    if thresholds is not None:
        calibration = thresholds.calibration
        report = replace(
            report,
            threshold=_recommended(thresholds),
            probability=None if calibration is None else partial(calibration.probability, model=model),
            figures=_figures(thresholds),
            tables=threshold_tables(thresholds),
        )
    return report


def _recommended(thresholds: Thresholds) -> Threshold | None:
    recommended = thresholds.recommended
    if (found := recommended.threshold) is None:
        return None
    return Threshold(
        found.value, (found.low, found.high), f"threshold for a false accept rate of {100 * recommended.asked_far:g} %"
    )


def _figures(thresholds: Thresholds) -> list[ExtraFigure]:
    name = thresholds.verification.protocol.name.replace("_", "-")
    errors = draw_errors(thresholds.verification, title="", recommended=thresholds.recommended)
    matches = f"Same-person pairs are the matches of the {name} protocol."
    drawn = [("Error rates at every threshold", errors, matches, True)]
    if thresholds.reliability is not None:
        reliable = draw_reliability(thresholds.reliability, title="")
        half = "Calibrated on one half of the persons, checked on the pairs of the other half."
        drawn.append(("Reliability of the probabilities", reliable, half, False))
    figures = []
    for name, figure, caption, wide in drawn:
        svg = io.BytesIO()
        write_figure(figure, svg, "svg")
        figures.append(ExtraFigure(name, svg.getvalue().decode(), caption, wide))
    return figures
