-- What each person saw of each page in each hour: the facts as far as the first two questions need them.
--
-- A page is scheme://host/path; what is no such URL stays as it is. The same fact twice counts once, because the
-- view counts distinct facts: it does not matter who appends a fact again, or how.
CREATE MATERIALIZED VIEW IF NOT EXISTS page_hours
WITH (batch_every = '1h') AS
SELECT
    regexp_replace(
        url,
        '^([A-Za-z][A-Za-z0-9+.-]*)://(?:[^/?#@\s]*@)?(\[[0-9A-Fa-f:.]+\]|[^/?#@:\[\]\s]+)(?::[0-9]*)?(/[^?#\s]*)?(?:[?#]\S*)?$',
        '\1://\2\3'
    ) AS page,
    at_s / 3600 AS hour,
    person,
    count(DISTINCT at_s || ' ' || nonce || ' ' || url) AS pageviews
FROM page_view
GROUP BY 1, 2, 3;
