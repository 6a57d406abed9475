"""`anyscene study demo`: a study of drawn images, answered by simulated raters, and its report.

drawn images and manifests -> create -> answers -> report. What a former call finished is reused.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from anyscene.errors import InputError
from anyscene.study.create import create_study
from anyscene.study.demo_images import METHODS, draw_methods
from anyscene.study.plan import describe, plan_study
from anyscene.study.protocol import read_protocol
from anyscene.study.records import Submission, Task
from anyscene.study.report import write_study_report
from anyscene.study.simulate import Raters, Truth, simulate_submissions
from anyscene.study.sources import read_sources
from anyscene.study.store import FILE_NAME, Store

PROTOCOL = Path("configs/study/demo.yaml")
URL = "http://127.0.0.1:8000"
CARELESS = ("a03",)
TRUTH: Truth = {  # what the raters are made to think, in the order of METHODS
    "image_quality": dict(zip(METHODS, (3.2, 2.6, 3.0, 1.7), strict=True)),
    "scene_harmony": dict(zip(METHODS, (3.3, 1.6, 3.0, 2.5), strict=True)),
    "object_fidelity": dict(zip(METHODS, (3.5, 3.5, 1.6, 2.3), strict=True)),
}


def run_study_demo(out: Path, protocol_path: Path = PROTOCOL) -> Path:
    """Make the study in `out/study`, fill it, write its report, and return the report's page.

    Raises:
        InputError: another study is there.
    """
    protocol = read_protocol(protocol_path)
    protocol = replace(protocol, title=f"{protocol.title} (simulated raters)")
    study = out / "study"
    if (study / FILE_NAME).is_file():
        _check_own(study, protocol.title)
        print(f"{study} is there: reused")
    else:
        manifests = draw_methods(out / "images", protocol)
        plan = plan_study(protocol, *read_sources(list(manifests.items()), protocol))
        print(describe(plan))
        create_study(plan, study, url=URL, protocol_folder=protocol_path.parent)
    answer_all(study, Raters(TRUTH, protocol.seed, CARELESS))
    page = write_study_report(study)
    print(f"report of simulated answers: {page}")
    print(f"see what annotators see: anyscene study serve {study}")
    return page


def answer_all(folder: Path, raters: Raters, people: Sequence[str] = ()) -> None:
    """Answer what is open in a study, in the place of some people or of everybody."""
    with closing(Store(folder)) as store:
        people = people or store.people()
        tasks = [task for person in people for task in store.tasks(person)]
        given = simulate_submissions(tasks, store.pictures(), store.protocol, raters)
        for person in people:
            store.opened(person)
            store.consent(person)
        for task, (answers, seconds) in zip(tasks, given, strict=True):
            store.submit(task.annotator, submission(task, answers, seconds))


def submission(task: Task, answers: Mapping[str, int], seconds: float) -> Submission:
    """What a browser would send: of a pair the values as it stands on the screen."""
    side = -1 if task.swapped else 1
    shown = {criterion: side * value for criterion, value in answers.items()}
    identifier = sha256(task.id.encode()).hexdigest()[:32]  # the same for a second call
    return Submission(identifier, task.id, shown, seconds, replaces=None)


def _check_own(study: Path, title: str) -> None:
    """Real answers must not be mixed with simulated ones."""
    with closing(Store(study)) as store:
        if store.protocol.title != title:
            raise InputError(f"{study} holds another study, {store.protocol.title!r}; give --out")
