import os

from words import GREETING


def handler(event, context):
    return {"said": GREETING, "stage": os.environ["STAGE"], "table": os.environ.get("TABLE")}
