-- What must hold of visits, however they are computed: between two visits of one visitor there are more than
-- 30 minutes of silence. Rows of this view are visits that should have been one with the visit before.
CREATE MATERIALIZED VIEW IF NOT EXISTS check_visits
WITH (expect = 'no rows') AS
SELECT domain, visitor, visit, started_at_s, silence_s
FROM (
    SELECT
        *,
        started_at_s - lag(ended_at_s) OVER (PARTITION BY domain, visitor ORDER BY started_at_s, visit) AS silence_s
    FROM visits
) AS following
WHERE silence_s <= 1800;
