-- `iata` is the record id: loading the file a second time adds nothing.
CREATE STREAM IF NOT EXISTS airports (
    iata text NOT NULL,
    name text,
    city text,
    state text,
    country text,
    latitude double precision,
    longitude double precision
) WITH (record_id = 'iata');
