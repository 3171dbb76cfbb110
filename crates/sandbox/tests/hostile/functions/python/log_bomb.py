"""A log of more than anybody reads."""


def handler(event, context):
    for number in range(200_000):
        print(number, "x" * 100)
    return []
