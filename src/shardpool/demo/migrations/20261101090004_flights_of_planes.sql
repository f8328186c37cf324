-- migrate:up
-- Filled by the batch, plane after plane.
alter table planes add column flights integer;

-- migrate:down
alter table planes drop column flights;
