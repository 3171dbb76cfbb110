"""As much memory as it can get."""


def handler(event, context):
    keep = []
    while True:
        keep.append(bytearray(b"x") * (1 << 20))
