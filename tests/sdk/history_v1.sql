-- What the release of version 1 wrote: four events, one of them forgotten.
PRAGMA application_id = 1886090354;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL, event TEXT NOT NULL, timestamp INTEGER);
INSERT INTO "events" VALUES(1,'a','view',1700000000);
INSERT INTO "events" VALUES(2,'b','',NULL);
INSERT INTO "events" VALUES(4,'ü','buy',1700000100);
CREATE INDEX events_item ON events (item_id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',4);
COMMIT;
