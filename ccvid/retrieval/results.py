"""Write the results of a scored retrieval into its run folder (``ccvid/run_files.py``), each file atomically."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from ccvid.config import ScoreOptions
from ccvid.retrieval.embedding.table import EmbeddingRows, EmbeddingTable, write_embeddings
from ccvid.retrieval.fusion.fusion import Fusion
from ccvid.retrieval.gallery.post_processing import NOTE as POST_PROCESSING_NOTE
from ccvid.retrieval.gallery.post_processing import (
    ChangeableDistances,
    ProcessedScores,
    compare_post_processing,
    post_processing_rows,
)
from ccvid.retrieval.ranking.bootstrap import ResultIntervals, result_intervals
from ccvid.retrieval.ranking.distances import CosineDistances, Scores
from ccvid.retrieval.ranking.metrics import Evaluation
from ccvid.retrieval.ranking.protocol_hash import protocol_hashes
from ccvid.retrieval.ranking.protocols import Protocol
from ccvid.retrieval.ranking.scoring import PICTURED_PROTOCOLS, ScoredRetrieval, leading_result
from ccvid.retrieval.report.figures import save_figure
from ccvid.retrieval.report.film_strip import Thumbnails
from ccvid.retrieval.report.ranked_picture import draw_rankings
from ccvid.retrieval.report.report import write_report
from ccvid.retrieval.report.report_input import ExtraTable, ReportInput, Threshold
from ccvid.retrieval.report.stored_pictures import StoredPictures
from ccvid.retrieval.report.tables import metrics_table, post_processing_lines, write_query_table
from ccvid.retrieval.report.threshold_pictures import threshold_figures
from ccvid.retrieval.report.threshold_tables import threshold_lines, threshold_tables
from ccvid.retrieval.thresholds.calibration import write_calibration
from ccvid.retrieval.thresholds.find import Thresholds, find_thresholds
from ccvid.run_files import (
    CALIBRATION_FILE,
    EMBEDDINGS_FILE,
    FUSION_FILE,
    METRICS_FILE,
    QUERIES_FILE,
    REPORT_FOLDER,
    TABLES_FILE,
    THRESHOLDS_FILE,
    rankings_file,
)
from data_tools.errors import InputError
from data_tools.files import atomic_file


def write_scores(
    folder: Path,
    scores: ScoredRetrieval,
    query: EmbeddingTable,
    gallery: EmbeddingRows,
    embeddings: Iterable[EmbeddingTable],
    pictures: StoredPictures,
    options: ScoreOptions,
    *,
    weights: str,
    title: str,
    facts: Mapping[str, object],
    fusion: Fusion | None = None,
) -> dict[str, object]:
    """Write embeddings, pictures of rankings and the files of ``write_results``; returns what ``metrics.json`` holds.

    Args:
        query, gallery: what was scored.
        embeddings: of the gallery, some rows at a time, in its order.
        pictures: of their tracklets.
        weights: fingerprint of the weights.
        title: of tables, pictures and the report.
        facts: further entries of ``metrics.json``.
        fusion: how the scores were fused, if they were.
    """
    write_embeddings(chain([query], embeddings), folder / EMBEDDINGS_FILE)
    query_thumbnails, gallery_thumbnails = (pictures.of(rows) for rows in (query.rows, gallery))
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
                save_figure(figure, folder / rankings_file(name, kind))
    return write_results(
        folder,
        scores,
        options,
        model=query.model if fusion is None else fusion.fingerprint,
        title=title,
        facts={"model": weights, "embedder": query.model, **facts},
        thumbnails=(query_thumbnails, gallery_thumbnails),
        fusion=fusion,
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
    fusion: Fusion | None = None,
) -> dict[str, object]:
    """Write metrics, intervals, thresholds, the report and, last, ``metrics.json``; returns the content of the last.

    Args:
        model: fingerprint of the model that a calibration is valid for.
        thumbnails: of queries and gallery; without them the report's filmstrips show only captions.
        fusion: how the scores were fused, for those of other data.
    """
    evaluation, draws = scores.evaluation, options.threshold.draws
    intervals = {
        name: result_intervals(result, evaluation.query.person, draws=draws)
        for name, result in evaluation.results.items()
    }
    protocol = leading_result(evaluation).protocol
    thresholds, without = _thresholds(scores, protocol, options, model)
    processed = _post_processing(scores, options)  # before anything is written: because it may raise
    write_query_table(evaluation, folder / QUERIES_FILE)
    text = metrics_table(evaluation, scores.single_shot, intervals=intervals, title=title)
    text = "\n".join([text, "", *threshold_lines(thresholds, without)])
    if processed:
        text = "\n".join([text, "", *post_processing_lines(processed)])
        facts = {**facts, "post_processing": [found.to_json() for found in processed]}
    metrics = {
        **scores.to_json(),
        "intervals": {name: found.to_json() for name, found in intervals.items()},
        "hashes": protocol_hashes(evaluation),
        **facts,
    }
    for earlier in (THRESHOLDS_FILE, CALIBRATION_FILE, FUSION_FILE):
        (folder / earlier).unlink(missing_ok=True)
    files = {TABLES_FILE: text + "\n"}
    if thresholds is not None:
        files[THRESHOLDS_FILE] = json.dumps({"model": model, **thresholds.to_json()}, indent=1) + "\n"
        if thresholds.calibration is not None:
            write_calibration(thresholds.calibration, folder / CALIBRATION_FILE)
    if fusion is not None:
        files[FUSION_FILE] = fusion.model_dump_json(indent=1) + "\n"
    if options.report:
        report = _report(scores, intervals, thresholds, model, title, facts, thumbnails)
        if processed:
            table = ExtraTable("Post-processing (%)", *post_processing_rows(processed), POST_PROCESSING_NOTE)
            report = replace(report, tables=[*report.tables, table])
        write_report(report, folder / REPORT_FOLDER)
    files[METRICS_FILE] = json.dumps(metrics, indent=1) + "\n"
    for file, content in files.items():
        with atomic_file(folder / file) as handle:
            handle.write(content.encode())
    return metrics


def _thresholds(
    scores: ScoredRetrieval, protocol: Protocol, options: ScoreOptions, model: str
) -> tuple[Thresholds | None, str]:
    """The thresholds of a protocol, or why there are none."""
    evaluation = scores.evaluation
    try:
        found = find_thresholds(
            scores.distances,
            evaluation.query,
            evaluation.gallery,
            protocol,
            options.threshold,
            model=model,
            first_score_Q=_first_scores(evaluation, protocol.name),
        )
    except InputError as error:
        return None, str(error)
    return found, ""


def _first_scores(evaluation: Evaluation, protocol: str) -> Scores:
    """Of each query with its first entry, without regard to clothes if that protocol was scored."""
    ranked = evaluation.ranked_gallery("general" if "general" in evaluation.results else protocol)
    first_Q: Scores = 1.0 - ranked.distance_QK[ranked.gallery_QK[:, 0] >= 0, 0].astype(np.float64)
    return first_Q


def _post_processing(scores: ScoredRetrieval, options: ScoreOptions) -> list[ProcessedScores]:
    if not options.post_processing:
        return []
    if not isinstance(scores.distances, CosineDistances | ChangeableDistances):
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
            figures=threshold_figures(thresholds),
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
