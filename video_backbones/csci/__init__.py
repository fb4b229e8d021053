"""The networks of CSCI (Pathak & Rawat, Colors See, Colors Ignore, ICCV 2025) over timm's EVA-02 and ViT networks."""
