-- The newest departure of every airport: latest by key.
CREATE MATERIALIZED VIEW IF NOT EXISTS latest_departure
WITH (batch_every = '1h') AS
SELECT
    origin,
    max(date) AS departed_at,
    last_value(destination ORDER BY date) AS destination,
    last_value(delay ORDER BY date) AS delay
FROM flights
GROUP BY origin;
