import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * Re-rank one list from Java 17 or newer with the classes of the JDK.
 *
 * <pre>java examples/Rank.java [URL]</pre>
 *
 * <p>The JDK has no JSON parser, so a regular expression reads the ids. Use Jackson or Gson in a
 * real program, and return the candidates in their own order when {@code send} throws.
 */
public class Rank {
    private static final Pattern ID = Pattern.compile("\\{\"id\":\"([^\"]*)\"");

    public static void main(String[] arguments) throws Exception {
        String url = arguments.length > 0 ? arguments[0] : "http://127.0.0.1:8000";
        String body = """
            {"candidates": ["1036", "10", "1042", "47", "50"], "slate_size": 3}""";
        HttpRequest request = HttpRequest.newBuilder(URI.create(url + "/rerank"))
            .header("Content-Type", "application/json")
            .header("X-Request-Timeout-Ms", "1000")
            .timeout(Duration.ofMillis(1050))
            .POST(HttpRequest.BodyPublishers.ofString(body))
            .build();
        HttpResponse<String> response =
            HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        if (response.statusCode() != 200) {
            throw new IllegalStateException(response.statusCode() + ": " + response.body());
        }
        System.out.println(
            ID.matcher(response.body()).results().map(match -> match.group(1))
                .collect(Collectors.joining(" ")));
    }
}
