"""Flags departures that are very late: called with batches of `flights`, answers with records of `alerts`."""

import os

LONG_DELAY_MINUTES = int(os.environ.get("LONG_DELAY_MINUTES", "180"))


def handler(event, context):
    flights = [record["data"] for record in event["Records"]]
    alerts = [alert(flight) for flight in flights if flight["delay"] > LONG_DELAY_MINUTES]
    if alerts:
        print(f"{len(alerts)} of {len(flights)} departures were over {LONG_DELAY_MINUTES} minutes late")
    return alerts


def alert(flight):
    hours, minutes = divmod(flight["delay"], 60)
    return {
        "date": flight["date"],
        "origin": flight["origin"],
        "destination": flight["destination"],
        "delay": flight["delay"],
        "message": f"{flight['origin']} to {flight['destination']} left {hours} h {minutes} min late",
    }
