-- How late do flights leave an airport, hour by hour?
CREATE MATERIALIZED VIEW IF NOT EXISTS delays_per_hour
WITH (batch_every = '1h') AS
SELECT
    origin,
    date_trunc('hour', date) AS hour,
    count(*) AS flights,
    avg(delay) AS delay_avg,
    min(delay) AS delay_min,
    max(delay) AS delay_max,
    stddev(delay) AS delay_stddev
FROM flights
GROUP BY origin, date_trunc('hour', date);
