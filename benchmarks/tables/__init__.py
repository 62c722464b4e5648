"""The tables of README and documents that are made of records: written anew, or compared.

    python -m benchmarks.tables             write them
    python -m benchmarks.tables --check     exit with 1 where one differs

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is one of `TABLES`. A single figure of
prose stands between `<!-- figure: RECORD.KEY.KEY FORMAT -->` and `<!-- end -->`, FORMAT as of `format`; a
number among the keys counts into a list. Records lie in `benchmarks/results`.
"""

from benchmarks.tables.places import DOCUMENTS, ROOT, TABLES, with_tables

__all__ = ["DOCUMENTS", "ROOT", "TABLES", "with_tables"]
