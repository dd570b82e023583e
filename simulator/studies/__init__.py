"""The named studies, and how to run one: the only place where the domain and the harness meet."""

from simulator.cluster import ClusterError
from simulator.studies.gallery import (
    about,
    alt,
    animate,
    comparison,
    draw,
    index_text,
    published_text,
    summary,
    with_spread,
)
from simulator.studies.interrupt import Stopped
from simulator.studies.plan import cores
from simulator.studies.registry import STUDIES, find
from simulator.studies.remote import workers
from simulator.studies.report import Report
from simulator.studies.running import dry_run, run
from simulator.studies.settings import Settings, SettingsError, override, setting
from simulator.studies.study import SCALES, Published, Study, Verdict
from simulator.sweep import GridError

__all__ = [
    "SCALES",
    "STUDIES",
    "ClusterError",
    "GridError",
    "Published",
    "Report",
    "Settings",
    "SettingsError",
    "Stopped",
    "Study",
    "Verdict",
    "about",
    "alt",
    "animate",
    "comparison",
    "cores",
    "draw",
    "dry_run",
    "find",
    "index_text",
    "override",
    "published_text",
    "run",
    "setting",
    "summary",
    "with_spread",
    "workers",
]
