-- Who visited a page, in every bucket of time: one row for each visitor, whatever ids they had.
--
-- The visitors of several buckets are not a sum, so the buckets hold the visitors themselves.
CREATE MATERIALIZED VIEW IF NOT EXISTS visitors AS
SELECT DISTINCT
    p.page,
    b.kind,
    b.bucket,
    b.from_hour,
    b.until_hour,
    b.wider_from,
    b.wider_until,
    coalesce(persons.visitor, p.person) AS visitor
FROM page_hours AS p
JOIN buckets AS b ON b.hour = p.hour
LEFT JOIN persons ON persons.person = p.person;
