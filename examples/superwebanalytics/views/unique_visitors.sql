-- The second question: how many people visited a page, in every bucket of time?
CREATE MATERIALIZED VIEW IF NOT EXISTS unique_visitors AS
SELECT page, kind, bucket, count(*) AS visitors
FROM visitors
GROUP BY page, kind, bucket;
