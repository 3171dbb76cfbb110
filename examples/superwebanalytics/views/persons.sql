-- The visitor behind each id that `equiv` names: the smallest id that can be reached from it.
--
-- Small ids walk from neighbour to neighbour, and only to larger ones: the smallest of all reaches every other.
CREATE MATERIALIZED VIEW IF NOT EXISTS persons AS
WITH RECURSIVE
    neighbours AS (
        SELECT person_a AS person, person_b AS other FROM equiv
        UNION
        SELECT person_b AS person, person_a AS other FROM equiv
    ),
    reached AS (
        SELECT person, person AS visitor FROM neighbours
        UNION
        SELECT neighbours.other AS person, reached.visitor
        FROM reached
        JOIN neighbours ON neighbours.person = reached.person
        WHERE reached.visitor < neighbours.other
    )
SELECT person, min(visitor) AS visitor
FROM reached
GROUP BY person;
