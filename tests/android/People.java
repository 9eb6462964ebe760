import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.Arrays;

import org.graphopt.poses.PoseRunner;

/** Runs PoseRunner as the app does: a bundle, then frames. Prints people, then what goes wrong. */
final class People {
    private static final PrintStream out = System.out;

    private interface Wrong {
        void run();
    }

    public static void main(String[] arguments) throws Exception {
        PoseRunner runner = new PoseRunner(arguments[0], null, 2);
        out.println("\"" + runner.device() + "\"");
        ByteBuffer y = null;
        for (String argument : Arrays.asList(arguments).subList(1, arguments.length)) {
            // file, width, height, row of y, place of u, place of v, row and pixel of both, turn
            String[] words = argument.split(",");
            byte[] bytes = Files.readAllBytes(Paths.get(words[0]));
            y = ByteBuffer.allocateDirect(bytes.length);
            y.put(bytes).rewind();
            int[] n = Arrays.stream(words).skip(1).mapToInt(Integer::parseInt).toArray();
            float[][] people = runner.find(
                    y, n[2], from(y, n[3]), from(y, n[4]), n[5], n[6], n[0], n[1], n[7]);
            out.println(Arrays.deepToString(people));
        }
        if (runner.warning() != null) {
            throw new AssertionError(runner.warning());
        }
        ByteBuffer frame = y;
        ByteBuffer heap = ByteBuffer.allocate(frame.capacity());
        wrong(() -> new PoseRunner("/na\u00efve", null, 0));
        wrong(() -> new PoseRunner(null, null, 0));
        wrong(() -> runner.find(frame, 8, frame, frame, 8, 2, 8, 8, 45));
        wrong(() -> runner.find(heap, 8, heap, heap, 8, 2, 8, 8, 0));
        wrong(() -> runner.find(frame, 8, frame, null, 8, 2, 8, 8, 0));
        wrong(() -> runner.find(frame, 8, frame, from(frame, frame.capacity() - 8), 8, 2, 8, 8, 0));
        wrong(() -> runner.find(frame, 4, frame, frame, 8, 2, 8, 8, 0));
        wrong(() -> runner.find(frame, 8, frame, frame, 8, 2, 0, 8, 0));
        wrong(() -> runner.find(frame, 8, frame, frame, 8, 2, 1 << 30, 1 << 30, 90));
        runner.close();
        runner.close();
        wrong(runner::device);
    }

    private static ByteBuffer from(ByteBuffer buffer, int place) {
        ByteBuffer rest = buffer.duplicate();
        rest.position(place);
        return rest.slice();
    }

    private static void wrong(Wrong use) {
        try {
            use.run();
            out.println("\"nothing was wrong\"");
        } catch (RuntimeException exception) {
            String text = exception.toString();
            // ASCII, whatever the terminal's encoding is.
            StringBuilder quoted = new StringBuilder("\"");
            text.chars().forEach(c -> quoted.append(c < 128 ? "" + (char) c : String.format("\\u%04x", c)));
            out.println(quoted.append('"'));
        }
    }
}
