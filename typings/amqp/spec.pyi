class Basic:
    Cancel: tuple[int, int]

class Confirm:
    Select: tuple[int, int]
    SelectOk: tuple[int, int]
