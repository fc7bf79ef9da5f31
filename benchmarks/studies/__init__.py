# SPDX-License-Identifier: Apache-2.0
"""Repeat the paper's studies on any model: their questions, measurements and results, without printing."""

from benchmarks.studies.catalogue import STUDIES
from benchmarks.studies.running import run_study
from benchmarks.studies.study import Study

__all__ = ["STUDIES", "Study", "run_study"]
