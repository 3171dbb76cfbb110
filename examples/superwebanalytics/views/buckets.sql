-- The buckets of time that each hour lies in: hour, day, week and month of 28 days.
--
-- Each bucket spans the hours [from_hour, until_hour) and lies in one of the next wider kind, [wider_from, wider_until).
-- The fewest buckets that cover [a, b) exactly are those that lie in it while their wider bucket does not:
--     from_hour >= a AND until_hour <= b AND NOT coalesce(wider_from >= a AND wider_until <= b, false)
CREATE MATERIALIZED VIEW IF NOT EXISTS buckets AS
SELECT DISTINCT
    h.hour,
    kinds.kind,
    h.hour / kinds.hours AS bucket,
    h.hour / kinds.hours * kinds.hours AS from_hour,
    h.hour / kinds.hours * kinds.hours + kinds.hours AS until_hour,
    h.hour / kinds.wider * kinds.wider AS wider_from,
    h.hour / kinds.wider * kinds.wider + kinds.wider AS wider_until
FROM (SELECT at_s / 3600 AS hour FROM page_view) AS h
CROSS JOIN (
    VALUES ('hour', 1, 24), ('day', 24, 168), ('week', 168, 672), ('month', 672, NULL)
) AS kinds (kind, hours, wider);
