-- The mistake of the story in README.md: `silences` looks for the page view before among those of the same URL and
-- second, and so never finds one. The end of the last visit is forgotten; every page view is a visit of its own.
CREATE OR REPLACE MATERIALIZED VIEW visits AS
WITH
    facts AS (
        -- The host of the URL; one that has none is no visit of a domain. The same fact twice counts once.
        SELECT DISTINCT
            nullif(
                regexp_replace(
                    url,
                    '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@\s]*@)?(\[[0-9A-Fa-f:.]+\]|[^/?#@:\[\]\s]+)(?::[0-9]*)?(?:[/?#]\S*)?$',
                    '\1'
                ),
                url
            ) AS domain,
            person, url, nonce, at_s
        FROM page_view
    ),
    seen AS (
        SELECT
            facts.domain,
            coalesce(persons.visitor, facts.person) AS visitor,
            facts.person, facts.url, facts.nonce, facts.at_s
        FROM facts
        LEFT JOIN persons ON persons.person = facts.person
        WHERE facts.domain IS NOT NULL
    ),
    silences AS (
        SELECT
            *,
            at_s - lag(at_s) OVER (PARTITION BY domain, visitor, url, at_s ORDER BY at_s, url, nonce, person) AS silence_s
        FROM seen
    ),
    numbered AS (
        SELECT
            domain,
            visitor,
            at_s,
            count(CASE WHEN silence_s IS NULL OR silence_s > 1800 THEN 1 END)
                OVER (PARTITION BY domain, visitor ORDER BY at_s, url, nonce, person) AS visit
        FROM silences
    )
SELECT domain, visitor, visit, min(at_s) AS started_at_s, max(at_s) AS ended_at_s, count(*) AS pageviews
FROM numbered
GROUP BY domain, visitor, visit;
