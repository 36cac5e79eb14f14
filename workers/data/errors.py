"""What can be wrong with a job's data; the message says where, and what to do."""


class DataError(Exception):
    def __init__(self, source: str, detail: str, hint: str) -> None:
        super().__init__(f"data source {source!r}: {detail}; {hint}")
        self.source = source
        self.detail = detail
        self.hint = hint
