"""Greets whom the event names."""

import json

import wit_world


class WitWorld(wit_world.WitWorld):
    def handle(self, event: str) -> str:
        name = json.loads(event).get("name", "world")
        wit_world.log(f"greeting {name}")  # a line of `lambic function logs {{name}}`
        return json.dumps({"message": f"hello {name}"})
