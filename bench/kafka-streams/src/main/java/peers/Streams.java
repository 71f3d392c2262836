package peers;

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.atomic.LongAdder;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.ReadOnlyWindowStore;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.WindowStore;

/**
 * Kafka Streams: a topic's events by type and 5-minute window. Arguments: BROKERS TOPIC FORM THREADS STATE_DIR OUT.
 *
 * <p>FORM is {@code groupby}, the form of its documentation (a repartition topic, RocksDB), or {@code local}, its best
 * case: counts stay with the partition that the event is in, in memory, and the reader adds them up.
 */
public final class Streams {
  private static final Duration WINDOW = Duration.ofMinutes(5);
  /** Event time advances by partition, so that a replay drops what seems late unless the grace is long. */
  private static final Duration GRACE = Duration.ofDays(1);
  private static final Duration RETENTION = Duration.ofDays(2);

  @JsonIgnoreProperties(ignoreUnknown = true)
  public record Event(String event_id, String event_type, String timestamp, String product_id, String user_id, Double order_amount) {
    long millis() {
      return Instant.parse(timestamp).toEpochMilli();
    }
  }

  private static final ObjectReader READER = new ObjectMapper().readerFor(Event.class);
  private static final LongAdder READ = new LongAdder();

  private static Event decoded(String topic, byte[] payload) {
    try {
      return READER.readValue(payload);
    } catch (IOException broken) {
      throw new UncheckedIOException(broken);
    }
  }

  public static void main(String[] arguments) throws Exception {
    String brokers = arguments[0], topic = arguments[1], form = arguments[2];
    long began = System.nanoTime();
    StreamsBuilder builder = new StreamsBuilder();
    KStream<byte[], Event> events =
        builder.stream(
            topic,
            Consumed.with(Serdes.ByteArray(), Serdes.serdeFrom((t, event) -> null, (Deserializer<Event>) Streams::decoded))
                .withTimestampExtractor((record, partitionTime) -> ((Event) record.value()).millis()));
    if (form.equals("groupby")) {
      countByGroup(events);
    } else {
      countLocally(builder, events);
    }
    String application = "streams-peer-" + System.currentTimeMillis();
    try (Admin admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
      long wanted = eventsOf(admin, topic);
      KafkaStreams streams = new KafkaStreams(builder.build(), properties(arguments, application));
      streams.start();
      // In the second half of groupby every event is processed once more, from the repartition topic.
      double steps = form.equals("groupby") ? 2.0 * wanted : wanted;
      while (READ.sum() < wanted || metric(streams, "process-total", "stream-thread-metrics") < steps) {
        if (streams.state() == KafkaStreams.State.ERROR) {
          System.exit(1);
        }
        Thread.sleep(5);
      }
      double seconds = (System.nanoTime() - began) / 1e9;
      Files.writeString(Path.of(arguments[5]), String.join("\n", counts(streams)) + "\n");
      System.out.printf("RESULT peer=streams-%s n=%d secs=%.3f%n", form, wanted, seconds);
      System.out.flush();
      streams.close(Duration.ofSeconds(5));
      admin.deleteTopics(admin.listTopics().names().get().stream().filter(name -> name.startsWith(application)).toList()).all().get();
    }
    System.exit(0);
  }

  private static Properties properties(String[] arguments, String application) {
    Properties properties = new Properties();
    properties.put(StreamsConfig.APPLICATION_ID_CONFIG, application);
    properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
    properties.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, arguments[3]);
    properties.put(StreamsConfig.STATE_DIR_CONFIG, arguments[4]);
    properties.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, "1");
    properties.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
    properties.put(StreamsConfig.producerPrefix("linger.ms"), "100");
    return properties;
  }

  /** The value goes before the repartition, which is all that counting needs. */
  private static void countByGroup(KStream<byte[], Event> events) {
    Materialized<String, Long, WindowStore<Bytes, byte[]>> store =
        Materialized.<String, Long>as(Stores.persistentWindowStore("counts", RETENTION, WINDOW, false))
            .withKeySerde(Serdes.String())
            .withValueSerde(Serdes.Long())
            .withCachingEnabled();
    events
        .map((key, event) -> {
          READ.increment();
          return KeyValue.pair(event.event_type(), new byte[0]);
        })
        .groupByKey(Grouped.with("by-type", Serdes.String(), Serdes.ByteArray()))
        .windowedBy(TimeWindows.ofSizeAndGrace(WINDOW, GRACE))
        .count(store);
  }

  private static void countLocally(StreamsBuilder builder, KStream<byte[], Event> events) {
    builder.addStateStore(
        Stores.windowStoreBuilder(Stores.inMemoryWindowStore("counts", RETENTION, WINDOW, false), Serdes.String(), Serdes.Long())
            .withCachingEnabled()
            .withLoggingEnabled(Map.of()));
    events.process(
        () -> new Processor<byte[], Event, Void, Void>() {
          private WindowStore<String, Long> counts;

          @Override
          public void init(ProcessorContext<Void, Void> context) {
            counts = context.getStateStore("counts");
          }

          @Override
          public void process(Record<byte[], Event> record) {
            Event event = record.value();
            long window = event.millis() - Math.floorMod(event.millis(), WINDOW.toMillis());
            Long count = counts.fetch(event.event_type(), window);
            counts.put(event.event_type(), count == null ? 1 : count + 1, window);
            READ.increment();
          }
        },
        "counts");
  }

  private static long eventsOf(Admin admin, String topic) throws Exception {
    Map<TopicPartition, OffsetSpec> ends = new HashMap<>();
    for (var partition : admin.describeTopics(java.util.List.of(topic)).allTopicNames().get().get(topic).partitions()) {
      ends.put(new TopicPartition(topic, partition.partition()), OffsetSpec.latest());
    }
    return admin.listOffsets(ends).all().get().values().stream().mapToLong(end -> end.offset()).sum();
  }

  private static double metric(KafkaStreams streams, String name, String group) {
    return streams.metrics().entrySet().stream()
        .filter(metric -> metric.getKey().name().equals(name) && metric.getKey().group().equals(group))
        .mapToDouble(metric -> ((Number) metric.getValue().metricValue()).doubleValue())
        .sum();
  }

  private static TreeSet<String> counts(KafkaStreams streams) {
    ReadOnlyWindowStore<String, Long> store =
        streams.store(StoreQueryParameters.fromNameAndType("counts", QueryableStoreTypes.<String, Long>windowStore()));
    Map<String, Long> sums = new TreeMap<>();
    try (var all = store.fetchAll(Instant.EPOCH, Instant.now().plus(RETENTION))) {
      all.forEachRemaining(entry -> sums.merge(entry.key.key() + "," + entry.key.window().start(), entry.value, Long::sum));
    }
    TreeSet<String> lines = new TreeSet<>();
    sums.forEach((key, count) -> lines.add(key + "," + count));
    return lines;
  }
}
