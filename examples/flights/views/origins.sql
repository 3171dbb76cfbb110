-- Where can one fly to, and how bad is a bad day? Exact and sketched side by side.
CREATE MATERIALIZED VIEW IF NOT EXISTS origins
WITH (batch_every = '1h') AS
SELECT
    origin,
    count(DISTINCT destination) AS destinations,
    approx_distinct(destination) AS destinations_approx,
    approx_percentile_cont(delay, 0.5) AS delay_p50,
    approx_percentile_cont(delay, 0.95) AS delay_p95
FROM flights
GROUP BY origin;
