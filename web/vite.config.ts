import { defineConfig } from "vite";

// The page is built into dist, which is committed and embedded into the server.
// For work on it: `npx vite`, with a pod on its usual port.
export default defineConfig({
  base: "./", // also below a path of a proxy
  build: {
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0, // the Content-Security-Policy has no data:
    reportCompressedSize: false,
  },
  server: {
    proxy: { "/aipod.v1.JobService": "http://127.0.0.1:50051" },
  },
});
