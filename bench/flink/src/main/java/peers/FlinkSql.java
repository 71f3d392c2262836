package peers;

import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.util.TreeSet;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.types.Row;
import org.apache.flink.util.CloseableIterator;

/** Flink SQL in a mini cluster: a topic's events by type and 5-minute window. Arguments: BROKERS TOPIC PARALLELISM OUT. */
public final class FlinkSql {
  // No watermark can pass what is yet to come: the topic's end closes all windows, and no event is late.
  private static final String EVENTS = """
      CREATE TABLE events (event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3), product_id STRING, user_id STRING,
        order_amount DOUBLE, WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '1' DAY)
      WITH ('connector' = 'kafka', 'topic' = '%s', 'properties.bootstrap.servers' = '%s', 'properties.group.id' = 'flink-peer',
        'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset', 'format' = 'json',
        'json.timestamp-format.standard' = 'ISO-8601')""";

  private static final String COUNTS = """
      SELECT event_type, window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`timestamp`), INTERVAL '5' MINUTES))
      GROUP BY event_type, window_start, window_end""";

  public static void main(String[] arguments) throws Exception {
    String brokers = arguments[0], topic = arguments[1], parallelism = arguments[2];
    long began = System.nanoTime();
    Configuration configuration = new Configuration();
    configuration.setString("parallelism.default", parallelism);
    configuration.setString("taskmanager.numberOfTaskSlots", parallelism);
    configuration.setString("table.local-time-zone", "UTC");
    configuration.setString("pipeline.object-reuse", "true");
    TableEnvironment tables =
        TableEnvironment.create(EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(configuration).build());
    tables.executeSql(EVENTS.formatted(topic, brokers));
    TreeSet<String> lines = new TreeSet<>();
    long events = 0;
    try (CloseableIterator<Row> rows = tables.executeSql(COUNTS).collect()) {
      while (rows.hasNext()) {
        Row row = rows.next();
        long window = ((LocalDateTime) row.getField(1)).toInstant(ZoneOffset.UTC).toEpochMilli();
        lines.add(row.getField(0) + "," + window + "," + row.getField(2));
        events += (Long) row.getField(2);
      }
    }
    double seconds = (System.nanoTime() - began) / 1e9;
    Files.writeString(Path.of(arguments[3]), String.join("\n", lines) + "\n");
    System.out.printf("RESULT peer=flink-sql n=%d secs=%.3f%n", events, seconds);
    System.out.flush();
    System.exit(0);
  }
}
