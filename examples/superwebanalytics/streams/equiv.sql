-- Two ids (a cookie, a user id) are one person. It may be learned at any time, and holds for the past as well.
CREATE STREAM IF NOT EXISTS equiv (
    person_a bigint NOT NULL,
    person_b bigint NOT NULL,
    at_s bigint NOT NULL
);
