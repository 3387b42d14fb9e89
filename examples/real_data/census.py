"""KDD Census-Income as two tasks: who earns over 50,000 dollars, and who never married (the pair of the MMoE paper).

The file ``census-income/census-income.test.gz`` of the UCI repository is read from the folder that ``MTLKIT_DATA``
names, or the option `folder`. Neither task sees its own label column, nor the other's, nor the sampling weight.
"""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mtlkit
from mtlkit import tasks

COLUMNS_IN_ORDER = """
    age class_worker det_ind_code det_occ_code education wage_per_hour hs_college marital_stat major_ind_code
    major_occ_code race hisp_origin sex union_member unemp_reason full_or_part_emp capital_gains capital_losses
    stock_dividends tax_filer_stat region_prev_res state_prev_res det_hh_fam_stat det_hh_summ instance_weight
    mig_chg_msa mig_chg_reg mig_move_reg mig_same mig_prev_sunbelt num_emp fam_under_18 country_father
    country_mother country_self citizenship own_or_self vet_question vet_benefits weeks_worked year income_50k
"""
COLUMNS = COLUMNS_IN_ORDER.split()
NUMERIC = ("age", "wage_per_hour", "capital_gains", "capital_losses", "stock_dividends", "num_emp", "weeks_worked")
LEFT_OUT = ("income_50k", "marital_stat", "instance_weight")
CATEGORICAL = tuple(name for name in COLUMNS if name not in NUMERIC + LEFT_OUT)


@dataclass(frozen=True)
class Census(mtlkit.Source):
    """People: seven numbers and thirty-two categories each; 80, 10 and 10 per cent of them in the three splits.

    Attributes:
        folder: Where the data is.
        seed: Seeds the splits.
    """

    folder: str
    seed: int = 0

    def splits(self) -> Mapping[str, mtlkit.Split]:
        path = Path(self.folder) / "census-income" / "census-income.test.gz"
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file, skipinitialspace=True) if row]
        columns = dict(zip(COLUMNS, map(np.array, zip(*rows, strict=True)), strict=True))
        numeric = np.stack([columns[name].astype(np.float32) for name in NUMERIC], 1)
        categorical = np.stack([np.unique(columns[name], return_inverse=True)[1] for name in CATEGORICAL], 1)
        targets = {
            "income": np.char.startswith(columns["income_50k"], "50000").astype(np.int64),
            "never_married": (columns["marital_stat"] == "Never married").astype(np.int64),
        }
        order = np.random.default_rng(self.seed).permutation(len(rows))
        parts = np.split(order, [len(rows) * 8 // 10, len(rows) * 9 // 10])
        return {
            name: mtlkit.Split(
                {"numeric": numeric[part], "categorical": categorical[part]},
                {target: column[part] for target, column in targets.items()},
            )
            for name, part in zip(("train", "validation", "test"), parts, strict=True)
        }


class _OfCensus(tasks.Binary):
    def __init__(self, *, folder: str | None = None, split_seed: int = 0) -> None:
        self.folder = folder or os.environ.get("MTLKIT_DATA", ".")
        self.split_seed = split_seed

    def source(self) -> mtlkit.Source:
        return Census(self.folder, self.split_seed)


class Income(_OfCensus):
    """Who earns over 50,000 dollars a year."""

    target = "income"


class NeverMarried(_OfCensus):
    """Who never married."""

    target = "never_married"


income = mtlkit.plugin(Income)
never_married = mtlkit.plugin(NeverMarried)
