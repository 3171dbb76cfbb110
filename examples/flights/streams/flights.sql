-- One record for every departure. `delay` is in minutes, negative when early.
CREATE STREAM IF NOT EXISTS flights (
    date timestamp NOT NULL,
    delay bigint NOT NULL,
    distance bigint,
    origin text NOT NULL,
    destination text NOT NULL
) WITH (event_time = 'date', partitions = '2');
