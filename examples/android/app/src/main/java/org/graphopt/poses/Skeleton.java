package org.graphopt.poses;

import android.graphics.Color;

import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

import java.util.HashMap;
import java.util.Map;

/** How people are drawn: the parts and limbs of a bundle's pose.json. */
final class Skeleton {
    /** The colour of each part. */
    final int[] colors;

    /** For each limb, the parts that it joins. */
    final int[][] limbs;

    Skeleton(String pose) throws JSONException {
        JSONObject skeleton = new JSONObject(pose).getJSONObject("skeleton");
        JSONArray parts = skeleton.getJSONArray("parts");
        Map<String, Integer> places = new HashMap<>();
        colors = new int[parts.length()];
        for (int i = 0; i < colors.length; ++i) {
            JSONObject part = parts.getJSONObject(i);
            places.put(part.getString("name"), i);
            colors[i] = Color.parseColor(part.getString("color"));
        }
        JSONArray all = skeleton.getJSONArray("limbs");
        limbs = new int[all.length()][];
        for (int i = 0; i < limbs.length; ++i) {
            JSONObject limb = all.getJSONObject(i);
            // Bridges only help to find people; a part joined to itself draws nothing.
            String start = limb.getString("start");
            String end = limb.getBoolean("bridge") ? start : limb.getString("end");
            limbs[i] = new int[] {places.get(start), places.get(end)};
        }
    }
}
