"""Files into tables: CSV, plain or compressed, each row to the shard of its key."""

from .csv_file import CsvFile
from .csv_load import LoadReport, load_csv

__all__ = ["CsvFile", "LoadReport", "load_csv"]
