"""The filters: one family or cell a file."""
