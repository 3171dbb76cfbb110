-- `person` saw `url` at second `at_s`; `nonce` tells two views in the same second apart.
CREATE STREAM IF NOT EXISTS page_view (
    person bigint NOT NULL,
    url text NOT NULL,
    nonce bigint NOT NULL,
    at_s bigint NOT NULL
);
