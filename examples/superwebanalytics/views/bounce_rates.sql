-- The third question: what share of the visits of a domain ended after one page view?
CREATE MATERIALIZED VIEW IF NOT EXISTS bounce_rates AS
SELECT
    domain,
    count(*) AS visits,
    count(CASE WHEN pageviews = 1 THEN 1 END) AS bounces,
    count(CASE WHEN pageviews = 1 THEN 1 END)::double precision / count(*) AS bounce_rate
FROM visits
GROUP BY domain;
