package org.graphopt.poses;

import android.content.res.AssetManager;

import org.json.JSONException;
import org.json.JSONObject;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Arrays;
import java.util.Iterator;

/** The bundle of the app's assets as a folder of real files, which is what the runner reads. */
final class BundleFiles {
    private static final String MANIFEST = "manifest.json";

    private BundleFiles() {}

    /** Copies the bundle, unless this very bundle has been copied before. */
    static void copy(AssetManager assets, File folder) throws IOException, JSONException {
        byte[] manifest = read(assets, MANIFEST);
        Path copied = folder.toPath().resolve(MANIFEST);
        if (Files.exists(copied) && Arrays.equals(Files.readAllBytes(copied), manifest)) {
            return;
        }
        Files.createDirectories(folder.toPath());
        Files.deleteIfExists(copied);
        JSONObject files = new JSONObject(new String(manifest, "UTF-8")).getJSONObject("files");
        for (Iterator<String> names = files.keys(); names.hasNext(); ) {
            String name = names.next();
            try (InputStream asset = assets.open(name)) {
                Path file = folder.toPath().resolve(name);
                Files.copy(asset, file, StandardCopyOption.REPLACE_EXISTING);
            }
        }
        // Last: where it is, the rest is whole.
        Files.write(copied, manifest);
    }

    /** The content of an asset. */
    static byte[] read(AssetManager assets, String name) throws IOException {
        try (InputStream asset = assets.open(name)) {
            ByteArrayOutputStream content = new ByteArrayOutputStream();
            byte[] block = new byte[1 << 16];
            for (int count; (count = asset.read(block)) > 0; ) {
                content.write(block, 0, count);
            }
            return content.toByteArray();
        }
    }
}
