import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// The page asks its own address for everything, in production too, where `evolute serve --static dist` is both.
export default defineConfig({
  plugins: [react()],
  server: { proxy: { "/api": { target: "http://127.0.0.1:3210", ws: true } } },
});
