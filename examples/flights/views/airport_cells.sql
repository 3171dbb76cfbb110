-- Airports per geohash cell of about 39 km x 20 km; `geohash` is the Wasm function in functions/geohash.
CREATE MATERIALIZED VIEW IF NOT EXISTS airport_cells AS
SELECT
    geohash(latitude, longitude, 4) AS cell,
    count(*) AS airports
FROM airports
GROUP BY geohash(latitude, longitude, 4);
