-- Which pairs of airports see the most flights? (Order and limit when you read it.)
CREATE MATERIALIZED VIEW IF NOT EXISTS busiest_routes
WITH (batch_every = '1h') AS
SELECT
    origin,
    destination,
    count(*) AS flights,
    avg(distance) AS distance_avg
FROM flights
GROUP BY origin, destination;
