import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * Re-rank two lists from Java 17 or newer with the classes of the JDK.
 *
 * <pre>java examples/Rank.java [URL]</pre>
 *
 * <p>The JDK has no JSON parser, so a regular expression reads the slate. Use Jackson or Gson in a
 * real program, and read ids as long or String: a double rounds integers above 2^53.
 */
public class Rank {
    private static final long TIMEOUT_MS = 1000;
    private static final Pattern ENTRY = Pattern.compile("\"initial_position\":(\\d+)");

    static {
        // The service closes an idle connection after 75 s. Java 17 keeps it for 20 minutes and may
        // send a request on it while it closes.
        System.setProperty("jdk.httpclient.keepalive.timeout", "50");
    }

    // One client for the whole program: it reuses connections. HTTP/2 would only offer an upgrade.
    private static final HttpClient HTTP =
        HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    private final URI uri;

    Rank(String url) {
        uri = URI.create(url + "/rerank");
    }

    /**
     * Return the slate, or the first candidates when the service does not respond in time.
     *
     * @param candidates ids, of the type String or Long
     */
    <T> List<T> rerank(List<T> candidates, int slateSize) throws InterruptedException {
        String ids = candidates.stream()
            .map(id -> id instanceof String ? "\"" + id + "\"" : id.toString())
            .collect(Collectors.joining(","));
        String body = "{\"candidates\": [" + ids + "], \"slate_size\": " + slateSize + "}";
        HttpRequest request = HttpRequest.newBuilder(uri)
            .header("Content-Type", "application/json")
            .header("X-Request-Timeout-Ms", String.valueOf(TIMEOUT_MS))
            .POST(HttpRequest.BodyPublishers.ofString(body)) // it must not be compressed
            .build();
        // HttpRequest.timeout() would end when the header arrives, so a slow body could hang.
        CompletableFuture<HttpResponse<String>> pending =
            HTTP.sendAsync(request, HttpResponse.BodyHandlers.ofString());
        String reason;
        try {
            HttpResponse<String> response = pending.get(TIMEOUT_MS + 50, TimeUnit.MILLISECONDS);
            int status = response.statusCode();
            if (status == 200) {
                return ENTRY.matcher(response.body()).results()
                    .map(match -> candidates.get(Integer.parseInt(match.group(1)))).toList();
            }
            if (status >= 400 && status < 500) {
                // It names every field that broke a rule; a fallback would hide the bug.
                throw new IllegalArgumentException(status + ": " + response.body());
            }
            reason = "status " + status;
        } catch (TimeoutException error) {
            pending.cancel(true);
            reason = "timeout";
        } catch (ExecutionException error) {
            reason = error.getCause().toString();
        }
        System.err.println("fallback: " + reason);
        return candidates.subList(0, Math.min(slateSize, candidates.size()));
    }

    public static void main(String[] arguments) throws InterruptedException {
        Rank rank = new Rank(arguments.length > 0 ? arguments[0] : "http://127.0.0.1:8000");
        print(rank.rerank(List.of("1036", "10", "1042", "47", "50"), 3));
        print(rank.rerank(List.of(260L, 1196L, 9007199254740993L, 1210L), 4));
    }

    private static void print(List<?> ids) {
        System.out.println(ids.stream().map(Object::toString).collect(Collectors.joining(" ")));
    }
}
