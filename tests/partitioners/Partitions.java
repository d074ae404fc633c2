import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;

/** Prints the partitions that Kafka's own client gives to the keys of standard input, one on each line. */
class Partitions {
    public static void main(String[] args) throws Exception {
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        var out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        for (var key = lines.readLine(); key != null; key = lines.readLine()) {
            var row = new StringBuilder(key);
            for (var count : new int[] {1, 3, 8, 12, 100}) {
                var bytes = key.getBytes(StandardCharsets.UTF_8);
                row.append('\t').append(BuiltInPartitioner.partitionForKey(bytes, count));
            }
            out.print(row.append('\n'));
        }
        out.flush();
    }
}
