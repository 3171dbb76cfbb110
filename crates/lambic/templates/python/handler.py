"""Greets whom the event names."""


def handler(event, context):
    name = event.get("name", "world")
    print(f"greeting {name}")  # a line of `lambic function logs {{name}}`
    return {"message": f"hello {name}"}
