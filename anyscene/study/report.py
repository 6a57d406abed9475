"""`anyscene study report`: what the answers say, as a page, as Markdown and as CSV."""

import base64
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from anyscene.errors import InputError
from anyscene.files import replace_file
from anyscene.study import report_words
from anyscene.study.analysis import Analysis, Results, analyse_study
from anyscene.study.pages import ENVIRONMENT, answers_csv
from anyscene.study.plots import Axis, dot_plot
from anyscene.study.protocol import Protocol
from anyscene.study.ratings import counted, ratings_frame
from anyscene.study.records import Progress
from anyscene.study.report_tables import (
    Table,
    agreement_table,
    basis_table,
    comparison_table,
    method_table,
    people_table,
)
from anyscene.study.store import Store

FOLDER = "report"
SHARES = Axis("share in which the first method is preferred", 0, 1, reference=0.5)
EVERYONE, KEPT = "everyone", "without the excluded"


@dataclass(frozen=True)
class Study:
    """What a report is about."""

    protocol: Protocol
    methods: tuple[str, ...]
    progress: list[Progress]
    frame: pd.DataFrame  # `ratings_frame`
    results: Results

    @property
    def analyses(self) -> list[tuple[str, Analysis]]:
        """Their names and numbers, one or two."""
        kept = self.results.kept
        return [(EVERYONE, self.results.everyone), *([(KEPT, kept)] if kept else [])]


def write_study_report(folder: Path) -> Path:
    """Write `report/` into a study folder and return its page; same answers give the same bytes.

    Beside `report.html` and `report.md`: the plots; the numbers unrounded in `table.csv` (methods),
    `comparisons.csv`, `agreement.csv`, `consistency.csv`, `people.csv`; all answers in
    `ratings.csv`.

    Raises:
        InputError: no study, or one without any answer that counts.
    """
    with closing(Store(folder)) as store, store.snapshot():
        answers, progress = store.answers(), store.progress()
    frame = ratings_frame(answers, store.methods)
    if counted(frame).empty:
        raise InputError(f"{folder} has no ratings yet: there is nothing to report")
    results = analyse_study(frame, store.protocol)
    study = Study(store.protocol, store.methods, progress, frame, results)
    out = folder / FOLDER
    out.mkdir(exist_ok=True)
    plots = draw_plots(study)
    texts = {f"{name}.svg": plot for name, plot in plots.items()}
    texts |= {f"{name}.csv": table.to_csv(index=False) for name, table in csv_tables(study).items()}
    texts["ratings.csv"] = answers_csv(answers)
    texts["report.md"] = render("report.md.j2", study, plots)
    texts["report.html"] = render("report.html.j2", study, plots)
    for name, text in texts.items():
        replace_file(out / name, lambda part, text=text: part.write_text(text, encoding="utf-8"))
    return out / "report.html"


def csv_tables(study: Study) -> dict[str, pd.DataFrame]:
    """All numbers, both analyses in one table, told apart by `analysis`."""

    def joined(*names: str) -> pd.DataFrame:
        parts = []
        for title, analysis in study.analyses:
            tables = [getattr(analysis, name) for name in names]
            parts.append(pd.concat(tables).assign(analysis=title))
        return pd.concat(parts)

    return {
        "table": joined("methods"),
        "comparisons": joined("comparisons"),
        "agreement": joined("alphas"),
        "consistency": joined("consistency"),
        "people": study.results.people,
    }


def draw_plots(study: Study) -> dict[str, str]:
    """SVG by name: the methods, and their comparisons."""
    protocol = study.protocol
    rating = protocol.kind == "rating"
    criteria = [(criterion.name, criterion.title) for criterion in protocol.criteria]
    methods, comparisons = [], []
    for title, analysis in study.analyses:
        own = analysis.methods.rename(columns={"mean": "value", "strength": "value"})
        methods.append((title, own.assign(label=own["method"])))
        pairs = analysis.comparisons
        if not pairs.empty:
            joint = " \N{MINUS SIGN} " if rating else " over "
            pairs = pairs.rename(columns={"difference": "value", "share": "value"})
            comparisons.append(
                (title, pairs.assign(label=pairs["first"] + joint + pairs["second"]))
            )
    scale = protocol.scale
    axis = Axis("mean rating", scale.low, scale.high) if rating else Axis("strength", reference=0)
    plots = {"methods": dot_plot(methods, criteria, axis)}
    if comparisons:
        axis = Axis("difference of means", reference=0) if rating else SHARES
        plots["comparisons"] = dot_plot(comparisons, criteria, axis)
    return plots


def render(template: str, study: Study, plots: dict[str, str]) -> str:
    """The page, or its Markdown."""
    return ENVIRONMENT.get_template(template).render(
        study=study,
        protocol=study.protocol,
        summary=summary(study),
        sections=[(title, section(study, analysis)) for title, analysis in study.analyses],
        people=people_table(study.results.people, silent(study)),
        plots={name: base64.b64encode(svg.encode()).decode() for name, svg in plots.items()},
        reading=report_words.reading(study.protocol, study.frame),
        warnings=report_words.warnings(study.progress),
        exclusion=report_words.exclusion(study.protocol, study.results),
    )


def section(study: Study, analysis: Analysis) -> list[Table]:
    """One analysis."""
    return [
        method_table(analysis, study.protocol, study.methods),
        comparison_table(analysis, study.protocol),
        agreement_table(analysis, study.protocol),
        basis_table(analysis, study.protocol, study.methods),
    ]


def summary(study: Study) -> dict[str, str]:
    """The line under the title."""
    done = sum(own.answered for own in study.progress)
    tasks = sum(own.tasks for own in study.progress)
    excluded = sum(reason != "" for reason in study.results.people["excluded"])
    return {
        "Kind": study.protocol.kind,
        "Answered": f"{done:,} of {tasks:,} items",
        "People": f"{len(study.results.people)} of {len(study.progress)}",
        "Excluded": str(excluded),
        "Foregrounds": str(study.protocol.foregrounds),
        "Prompts each": str(study.protocol.prompts),
        "Images a prompt": str(study.protocol.images_per_prompt),
    }


def silent(study: Study) -> list[str]:
    """People without any answer."""
    return [own.annotator for own in study.progress if not own.answered]
