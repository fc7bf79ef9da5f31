# SPDX-License-Identifier: Apache-2.0
"""The paper's own studies, to be run on any model: what is asked, measured and found; nothing here prints."""

from benchmarks.studies.catalogue import STUDIES
from benchmarks.studies.running import run_study
from benchmarks.studies.study import Plan, Study, Variant

__all__ = ["STUDIES", "Plan", "Study", "Variant", "run_study"]
