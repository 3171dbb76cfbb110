-- Written by the function `flag_long_delays`, in the same commit that moves its position in `flights`.
CREATE STREAM IF NOT EXISTS alerts (
    date timestamp NOT NULL,
    origin text NOT NULL,
    destination text NOT NULL,
    delay bigint NOT NULL,
    message text
) WITH (event_time = 'date');
