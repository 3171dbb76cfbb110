-- The page views and the unique visitors of a page over the hours [from_hour, until_hour), from the fewest buckets
-- that cover them exactly (views/buckets.sql says which these are).
WITH
    asked AS (
        SELECT 'http://foo.com/post1' AS page, 0 AS from_hour, 30 AS until_hour
    ),
    counted AS (
        SELECT b.pageviews
        FROM pageviews AS b
        JOIN asked AS a ON b.page = a.page AND b.from_hour >= a.from_hour AND b.until_hour <= a.until_hour
        WHERE NOT coalesce(b.wider_from >= a.from_hour AND b.wider_until <= a.until_hour, false)
    ),
    met AS (
        SELECT b.visitor
        FROM visitors AS b
        JOIN asked AS a ON b.page = a.page AND b.from_hour >= a.from_hour AND b.until_hour <= a.until_hour
        WHERE NOT coalesce(b.wider_from >= a.from_hour AND b.wider_until <= a.until_hour, false)
    )
SELECT
    (SELECT count(*) FROM counted) AS buckets,
    (SELECT coalesce(sum(pageviews), 0) FROM counted) AS pageviews,
    (SELECT count(DISTINCT visitor) FROM met) AS visitors;
