"""An answer that is over the cap."""


def handler(event, context):
    return "x" * (7 << 20)
