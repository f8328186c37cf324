-- migrate:up
-- Keyspace weather_days: hourly weather at the three airports of departure, by local day.
create table weather (
    day        date not null,
    origin     text not null,
    observed   timestamptz not null,
    temp       double precision,
    dewp       double precision,
    humid      double precision,
    wind_dir   smallint,
    wind_speed double precision,
    wind_gust  double precision,
    precip     double precision not null,
    pressure   double precision,
    visib      double precision not null,
    primary key (day, origin, observed)
);

-- migrate:down
drop table weather;
