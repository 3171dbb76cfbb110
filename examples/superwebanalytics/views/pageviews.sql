-- The first question: how often was a page viewed, in every bucket of time?
CREATE MATERIALIZED VIEW IF NOT EXISTS pageviews AS
SELECT
    p.page,
    b.kind,
    b.bucket,
    b.from_hour,
    b.until_hour,
    b.wider_from,
    b.wider_until,
    sum(p.pageviews) AS pageviews
FROM page_hours AS p
JOIN buckets AS b ON b.hour = p.hour
GROUP BY p.page, b.kind, b.bucket, b.from_hour, b.until_hour, b.wider_from, b.wider_until;
