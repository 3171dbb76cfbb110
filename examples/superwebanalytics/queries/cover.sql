-- The fewest buckets that cover the minutes [63, 10033), were there buckets of minutes too: runs of buckets of one
-- kind, in the order of time.
WITH
    minutes AS (
        SELECT value AS minute FROM generate_series(63, 10032) AS t (value)
    ),
    asked AS (
        SELECT min(minute) AS from_minute, max(minute) + 1 AS until_minute FROM minutes
    ),
    buckets AS (
        SELECT DISTINCT
            kinds.kind,
            kinds.minutes,
            minute / kinds.minutes AS bucket,
            minute / kinds.wider * kinds.wider AS wider_from,
            minute / kinds.wider * kinds.wider + kinds.wider AS wider_until
        FROM minutes
        CROSS JOIN (
            VALUES ('minute', 1, 60), ('hour', 60, 1440), ('day', 1440, 10080), ('week', 10080, 40320), ('month', 40320, NULL)
        ) AS kinds (kind, minutes, wider)
    ),
    cover AS (
        SELECT b.kind, b.minutes, b.bucket, b.bucket - row_number() OVER (PARTITION BY b.kind ORDER BY b.bucket) AS run
        FROM buckets AS b
        CROSS JOIN asked AS a
        WHERE b.bucket * b.minutes >= a.from_minute
            AND (b.bucket + 1) * b.minutes <= a.until_minute
            AND NOT coalesce(b.wider_from >= a.from_minute AND b.wider_until <= a.until_minute, false)
    )
SELECT kind, min(bucket) AS from_bucket, max(bucket) + 1 AS until_bucket
FROM cover
GROUP BY kind, minutes, run
ORDER BY min(bucket) * minutes;
